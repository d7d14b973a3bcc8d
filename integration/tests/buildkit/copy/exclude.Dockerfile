FROM base
COPY --exclude=*.md docs /1/
COPY --exclude=*.md --exclude=keep.txt docs /2/
COPY --exclude=**/*.c src /3/
COPY --exclude=lib src /4/
COPY --exclude=lib/test --exclude=bin/* src /5/
COPY --exclude=* --exclude=!lib/lib.c src /6/
COPY --exclude=*.tmp --exclude=*/*.tmp . /7/
COPY --parents --exclude=**/test src/lib/ /8/
COPY --parents --exclude=*.md docs/* /9/
COPY --from=base --exclude=deep /opt/data /10/
ADD --exclude=*.c src/lib /11/
COPY --link --exclude=sub dir /12/
