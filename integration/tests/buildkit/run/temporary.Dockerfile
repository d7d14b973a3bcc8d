FROM base
RUN --mount=type=tmpfs,target=/t touch /t/x && df /t | tail -1 | cut -d' ' -f1 > /kind; stat -c %a /t > /t-mode
RUN --mount=type=tmpfs,target=/t,size=1048576 ! dd if=/dev/zero of=/t/big bs=1M count=2 2>/dev/null
RUN --mount=type=tmpfs,target=/opt/data ls -A /opt/data > /hidden
RUN --mount=type=tmpfs,target=/dev/shm touch /dev/shm/x
RUN touch /dev/shm/left /tmp/left
