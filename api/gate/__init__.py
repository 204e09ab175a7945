"""What a request passes before its route sees it: bounds, key, scope, rate; and the log of who called."""
