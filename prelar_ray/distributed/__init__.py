"""Ray: starts the roles as actors. Nothing outside this package and the commands imports ray."""
