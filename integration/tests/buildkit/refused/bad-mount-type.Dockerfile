FROM base
RUN --mount=type=floppy,target=/x true
#: refused
