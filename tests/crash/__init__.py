"""Kills at random moments: nothing that was acknowledged is lost, nothing is left over."""
