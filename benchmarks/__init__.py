"""What Hyps costs: by itself without I/O, and beside others over real sockets."""
