"""The program: options, the life of a mount, and the commands that talk to a running one."""
