FROM base AS other
RUN mkdir /o && echo o > /o/f && chown -R app:staff /o
FROM base
RUN --mount=type=bind,target=/ctx cp -a /ctx/dir /dir && ls -A /ctx | sort > /list
RUN --mount=target=/in,source=dir/sub stat -c '%n %a %u:%g' /in /in/f2 > /in-stat
RUN --mount=type=bind,source=a.txt,target=/one cat /one > /got
RUN --mount=type=bind,from=other,source=/o,target=/o,readwrite echo more >> /o/f && cat /o/f > /o-read
RUN --mount=from=other,src=/o,dst=/o stat -c '%a %u:%g' /o/f > /o-stat && ! touch /o/x
RUN --mount=from=base,target=/b cat /b/opt/data/a > /from-image
RUN --mount=type=bind,target=/rw,rw echo x > /rw/a.txt && rm -r /rw/dir
RUN --mount=type=bind,target=/opt/data,source=dir ls /opt/data > /covered
RUN --mount=type=bind,target=/new/mount/point true
WORKDIR /w
RUN --mount=type=bind,target=rel,source=dir ls rel > rel-list
RUN --mount=type=bind,target=/opt/link,source=dir ls /opt/data > /through
RUN --mount=type=bind,target=/e1,source=dir --mount=type=bind,target=/e1/sub/deep,source=src ls /e1/sub/deep > /nested
