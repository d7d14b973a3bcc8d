FROM base
USER nobody-here
COPY a.txt /
CMD ["x"]
