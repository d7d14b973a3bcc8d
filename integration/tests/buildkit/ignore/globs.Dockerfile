FROM base
COPY . /c
