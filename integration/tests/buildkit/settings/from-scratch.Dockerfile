FROM scratch
COPY a.txt /
LABEL a=b
CMD ["/a.txt"]
