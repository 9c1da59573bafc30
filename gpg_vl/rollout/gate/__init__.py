"""The vision gate: does the engine see what the trainer sees?"""
