FROM base AS seed
RUN mkdir /s && echo seed > /s/f && chown app /s
FROM base
RUN --mount=type=cache,target=/c echo one > /c/f
RUN --mount=type=cache,target=/c cat /c/f > /again && stat -c '%a %u:%g' /c > /c-stat
RUN --mount=type=cache,target=/other,id=/c cat /other/f > /by-id
RUN --mount=type=cache,target=/d,mode=0770,uid=1000,gid=50 stat -c '%a %u:%g' /d > /d-stat
RUN --mount=type=cache,target=/s,from=seed,source=/s cat /s/f > /seeded && stat -c '%a %u:%g' /s > /s-stat
RUN --mount=type=cache,target=/s,from=seed,source=/s,sharing=locked echo more >> /s/f
RUN --mount=type=cache,target=/c,readonly ! touch /c/x && ls /c > /c-list
RUN --mount=type=cache,target=/private,sharing=private touch /private/x
RUN --mount=type=cache,target=/opt/data/cached,id=fresh touch /opt/data/cached/x
USER app
RUN --mount=type=cache,target=/tmp/mine,uid=1000 touch /tmp/mine/x && ls -l /tmp/mine/x | cut -d' ' -f1 > /tmp/mode
