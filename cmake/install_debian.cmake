# What Debian's policy asks of a package beyond the files: a copyright file and a changelog.
set(doc ${CPACK_TEMPORARY_INSTALL_DIRECTORY}/usr/share/doc/moepool)
get_filename_component(source ${CMAKE_CURRENT_LIST_DIR}/.. ABSOLUTE)
file(READ ${source}/deploy/debian/copyright copyright)
file(WRITE ${doc}/copyright "${copyright}")
file(REMOVE ${doc}/LICENSE)  # Debian keeps one copy of it for all packages, which the copyright file names
file(COPY ${source}/deploy/debian/changelog DESTINATION ${doc})
execute_process(COMMAND gzip -9n ${doc}/changelog COMMAND_ERROR_IS_FATAL ANY)
