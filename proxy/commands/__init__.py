"""Commands that ask the running proxy; ``proxy.cli`` names them."""
