"""Installs llama.cpp: a prebuilt library where there is one, else a build from source.

`installer` tries the `builds` in order of speed and keeps the first whose self-test passes.
`python -m arsenale_inference.installation` is the command; nothing else imports this package but
the checks and the command line of this server.
"""
