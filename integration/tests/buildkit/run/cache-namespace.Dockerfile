FROM base
RUN --mount=type=cache,target=/c touch /c/of-the-namespace
RUN --mount=type=cache,target=/c ls /c > /listed
#: arg BUILDKIT_CACHE_MOUNT_NS=of-a-test
