"""Where files run: this machine, and the one worker file that is started there."""
