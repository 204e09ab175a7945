"""Who answers for a model: servers, names, and the way of a request there."""
