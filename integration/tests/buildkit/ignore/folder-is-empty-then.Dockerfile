FROM base
COPY docs /x/
COPY dir /y/
