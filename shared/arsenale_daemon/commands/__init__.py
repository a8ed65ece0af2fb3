"""The commands of `arsenale`: each module is imported when one of its commands is called.

A command parses, calls one function, and prints. `console` has what they share.
"""
