"""The other files here are scripts, which tests run in several processes at once."""

collect_ignore_glob = ["*.py"]
