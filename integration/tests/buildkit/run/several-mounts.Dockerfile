FROM base
ARG D=/ctx
RUN --mount=type=bind,target=$D \
    --mount=type=cache,target=/c,id=several \
    --mount=type=tmpfs,target=/c/t \
    --network=none \
    cp $D/a.txt /c/t/x && cp /c/t/x /x
RUN --mount=type=bind,target=/s <<EOT
cat /s/a.txt > /y
EOT
RUN --mount=type=bind,target=/s ["cp", "/s/b.txt", "/z"]
