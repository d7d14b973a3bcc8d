FROM base
CMD before
SHELL ["/bin/busybox", "sh", "-c"]
RUN echo $0 > /zero
ENTRYPOINT after
ONBUILD CMD x
HEALTHCHECK CMD a b
