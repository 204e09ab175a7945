"""How an idle worker is told to look, over Redis or a folder."""
