FROM base
RUN --mount=type=ssh test -S "$SSH_AUTH_SOCK" && echo "$SSH_AUTH_SOCK" > /1 && stat -c '%a %u:%g' "$SSH_AUTH_SOCK" >> /1
RUN --mount=type=ssh,target=/agent/sock,uid=1000,gid=50,mode=0660 stat -c '%a %u:%g' /agent/sock > /2
RUN --mount=type=ssh,id=absent true; echo "${SSH_AUTH_SOCK-unset}" > /3
RUN --mount=type=ssh --mount=type=ssh,id=default ls /run/buildkit > /4
#: ssh
