"""OpenAI's graders: a number for an answer."""
