FROM base
SHELL ["/bin/sh", "-c"]
HEALTHCHECK --timeout=1500ms --interval=0s CMD ["test", "-e", "/x y"]
