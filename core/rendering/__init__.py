"""From an example to token ids and a mask, through the base's own chat template."""
