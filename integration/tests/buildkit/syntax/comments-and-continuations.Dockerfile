# a comment
FROM base

# between
RUN echo a \
    # a comment within
    b \

    && echo 'c # no comment' > /c \
  # indented comment
    && echo d>/d
   LABEL indented=yes
LABEL tab="a	b"
run	echo lower > /lower
RUN echo one > /1; \
    echo two > /2 ;\
    echo "#three" > /3
ENV A=1 \
    B=2 \
# in the middle
    C=3
