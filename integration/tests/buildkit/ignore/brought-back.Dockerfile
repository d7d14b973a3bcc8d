FROM base
COPY . /c
COPY src/lib /lib2
COPY docs/*.md /md/
RUN --mount=type=bind,target=/ctx find /ctx | sort > /seen
