"""What training does to the network: corpus softmax, look-back initialisation, LoRA."""
