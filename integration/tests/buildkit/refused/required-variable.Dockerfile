FROM base
LABEL a=${UNSET:?must be there}
#: refused
