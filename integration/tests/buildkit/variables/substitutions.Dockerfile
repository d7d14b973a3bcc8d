FROM base
ARG F=archive.tar.gz
ENV SET=value EMPTY= DIR=/usr/lib/x
LABEL a="$SET" b="${SET}" c="${SET}s" d="$SETs" e="${SET:-no}" f="${EMPTY:-yes}" g="${UNSET:-yes}" \
  h="${EMPTY-empty}" i="${UNSET-unset}" j="${SET:+yes}" k="${EMPTY:+no}" l="${EMPTY+set}" m="${UNSET+no}" \
  n="${SET:?error}" o="${EMPTY?error}"
LABEL p="${F#*.}" q="${F##*.}" r="${F%.*}" s="${F%%.*}" t="${F/a/A}" u="${F//a/A}" v="${F/\*/-}" w="${F//./_}" \
  x="${DIR##*/}" y="${DIR%/*}" z="${F%%*}" za="${F##*}" zb="${F/ar*./X}" zc="${F//r?/_}"
LABEL esc1="\$SET" esc2='$SET' esc3=\$SET esc4="\\$SET" esc5=$SET\ $SET esc6="'$SET'" esc7='"$SET"' esc8="a\b\"c"
LABEL nest="${UNSET:-${SET}}" nest2="${UNSET:-$SET-${EMPTY:-e}}" nest3="${SET:+${F%.*}}" dollar="$" end="a$" two="$$"
LABEL digits="$1${2}" star="$*" at="$@" under="$_" mix=$SET"$SET"'$SET'
ENV PATH=$PATH:/more A$SET=b
WORKDIR ${DIR}/$SET
COPY ${UNSET:-a.txt} $SET/$EMPTY/
EXPOSE ${UNSET:-80}/tcp $UNSET
USER ${UNSET:-app}
VOLUME $DIR ${DIR}2
STOPSIGNAL ${UNSET:-SIGUSR1}
