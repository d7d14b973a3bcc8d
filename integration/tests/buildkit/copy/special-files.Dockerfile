FROM base
COPY special /special
COPY special/set-id /opt/
COPY special/pipe /pipe
COPY special/sparse /sparse
COPY special/group special/sticky /merged/
COPY private read-only odd-mode /modes/
