"""What quickstart.py does, standard library only: environment, ComfyUI, server, job. Start reading at command.py."""
