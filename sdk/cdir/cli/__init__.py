"""The command line, ``cdir``. Start here: ``app`` lists the commands, ``commands`` holds them."""
