# check=error=true
FROM base AS Casing
#: refused
