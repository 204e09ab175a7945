"""Who answers for a model, and whose it is: servers, names, shares, and the way of a request there."""
