FROM base
COPY . /c
COPY d* /d/
COPY src /s
RUN --mount=type=bind,target=/ctx find /ctx | sort > /seen
