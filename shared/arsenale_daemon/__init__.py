"""The command line `arsenale`, and the one process that hosts the servers."""
