FROM base
RUN echo carriage > /a
COPY a.txt /b
LABEL a="b"
