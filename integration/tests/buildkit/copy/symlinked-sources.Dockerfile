FROM base
COPY link-to-file /file
COPY link-to-link /twice
COPY link-to-dir /dir
COPY link-to-dir/ /dir2/
COPY link-to-dir/sub /sub
COPY link-to-file link-to-link /names/
COPY link-to* /globbed/
COPY dir /whole
COPY dir/link /resolved
