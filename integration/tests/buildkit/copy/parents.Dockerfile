FROM base
COPY --parents a.txt dir/f1 /p1/
COPY --parents src/lib/./test/test.c /p2/
COPY --parents ./src/*/*.c /p3/
COPY --parents src/./**/*.c docs/./*.md /p4/
COPY --parents ./dir/./sub /p5/
COPY --parents dir/sub /p6
COPY --parents */*.md /p7/
COPY --parents /dir/sub/deep/ /p8/
COPY --parents --chown=app:staff --chmod=0700 dir/sub/deep/f3.c /p9/
COPY --parents --from=base /opt/data/./deep/c /opt/one /p11/
COPY --parents ./src/./lib/lib.h /usr/
