FROM base
COPY --chmod=0600 run.sh /octal
COPY --chmod=755 dir /tree
COPY --chmod=4755 a.txt /setuid
COPY --chmod=1777 dir/empty /sticky/
COPY --chmod=0700 a.txt /made/on/the/way
COPY --chmod=u=rwX,go=rX dir /symbolic
COPY --chmod=+x a.txt /plus
COPY --chmod=go-rwx,u+s run.sh /minus
COPY --chmod=a=r,u+w dir/f1 /new/path/f1
COPY --chmod=g=u odd-mode /copied
COPY --chmod=u=rwX,g=rX,o= dir/sub /x/
COPY --chmod=+t dir/empty /t
COPY --chmod=0644 over/data /opt/data
COPY --chmod=g+w over/data /opt/link
COPY --chmod=0 a.txt /zero
