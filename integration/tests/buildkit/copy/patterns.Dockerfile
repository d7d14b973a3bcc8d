FROM base
COPY *.txt /star/
COPY ?.txt /question/
COPY [ab].txt /class/
COPY [^a].txt /negated/
COPY [a-c].* /range/
COPY d* /d/
COPY dir/f* dir/[s]* /below/
COPY */*/*.c /deep/
COPY src/**/*.c /everywhere/
COPY **/*.h /headers/
COPY .h* /hidden/
COPY * /everything/
COPY no-such* a.txt /some/
COPY \$A /dollar
COPY st\*r /star-file
COPY [[]x] /bracket
COPY src/** /src/
COPY d*/sub /one
