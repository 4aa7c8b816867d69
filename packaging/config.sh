# Functions for shell scripts of sites, under the names that scripts know from cvmfs2's
# /etc/cvmfs/config.sh. To be sourced:
#
#   . /usr/share/cvmfs-fuse/config.sh
#   cvmfs_readconfig cms.cern.ch && echo "$CVMFS_SERVER_URL"
#
# They work for any sh. They ask the program, which may be named by CVMFS_FUSE.

# cvmfs_parsed_ [FQRN]: all parameters, as NAME='VALUE'    # from FILE:LINE
cvmfs_parsed_() {
    "${CVMFS_FUSE:-cvmfs-fuse}" config show "$@"
}

# cvmfs_readconfig [FQRN]: sets all parameters as variables of this shell.
cvmfs_readconfig() {
    cvmfs_parsed_text_=$(cvmfs_parsed_ "$@") || return
    # Made to be evaluated: values are quoted where they have to be.
    eval "$cvmfs_parsed_text_"
}

# cvmfs_getorigin NAME [FQRN]: says which file sets a parameter; fails if none does.
cvmfs_getorigin() {
    cvmfs_origin_name_=$1
    shift
    cvmfs_parsed_ "$@" | sed -n "s/^$cvmfs_origin_name_=.*    # from //p" | grep .
}

# cvmfs_mkfqrn NAME: adds the default domain to a name that has none.
cvmfs_mkfqrn() {
    case $1 in
    *.*) printf '%s\n' "$1" ;;
    *) cvmfs_parsed_ "$1" | sed -n "s/^CVMFS_FQRN=//p" | grep . ;;
    esac
}

# cvmfs_getorg FQRN: says the first part of a name.
cvmfs_getorg() {
    printf '%s\n' "${1%%.*}"
}

# cvmfs_getdomain FQRN: says the rest of it.
cvmfs_getdomain() {
    printf '%s\n' "${1#*.}"
}
