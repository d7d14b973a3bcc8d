FROM base
COPY *.txt /x/
