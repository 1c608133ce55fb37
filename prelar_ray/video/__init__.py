"""Action-free videos: Arrow shards on disk, clips sampled from them, and the recorder that writes them."""
