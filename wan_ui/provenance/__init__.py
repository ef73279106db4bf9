"""The settings inside an MP4: written with a clip, read back and compared with what is here now."""
