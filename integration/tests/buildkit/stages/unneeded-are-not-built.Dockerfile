FROM base AS broken
RUN exit 1
FROM nowhere.invalid/never/pulled:1 AS absent
COPY no-such-file /
FROM base AS target
RUN touch /t
FROM target AS after
RUN exit 1
#: target target
