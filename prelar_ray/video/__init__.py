"""Videos without actions: Arrow shards on disk, clips sampled from them, and the recorder that makes them."""
