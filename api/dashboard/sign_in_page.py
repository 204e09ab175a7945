"""The sign-in page: a plain form, which works without any script."""

from __future__ import annotations

from html import escape

from api.dashboard.marks import ICON

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>Sign in · Attune</title>
<link rel="icon" href="{icon}">
<link rel="stylesheet" href="{root}/static/theme.css">
</head>
<body class="sign-in">
<main class="card">
<h1>Sign in to Attune</h1>
{message}
<form method="post" action="{root}/sign-in">
<input type="hidden" name="next" value="{wanted}">
<label for="key">API key</label>
<input id="key" name="key" type="password" autocomplete="current-password" spellcheck="false" required autofocus
 placeholder="sk-attune-…" aria-describedby="where">
<button type="submit" class="button primary">Sign in</button>
</form>
<p id="where" class="quiet">This browser keeps a session that expires, never the key. Where is mine? On the machine that
runs Attune, <code>attune dashboard</code> prints a link that signs you in; the first key lies in the file
<code>operator-key</code> of its data folder. Otherwise ask whoever runs it.</p>
</main>
</body>
</html>
"""


def render(root: str, wanted: str, *, note: str | None, problem: str | None) -> str:
    message = ""
    if problem is not None:
        message = f'<p class="notice error" role="alert">{escape(problem)}</p>'
    elif note is not None:
        message = f'<p class="notice" role="status">{escape(note)}</p>'
    return _PAGE.format(icon=ICON, root=escape(root), wanted=escape(wanted), message=message)
