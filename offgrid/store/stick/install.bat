@echo off
rem Installs OffGrid LLM @VERSION@ and the models of this folder. It uses no network.
rem
rem     install.bat [--serve] [FOLDER]
rem
rem FOLDER is the virtual environment to make; without it, "offgrid" in the home folder.
rem With --serve, the server is started at the end.
setlocal
set "PYTHONHOME="
set "PYTHONPATH="
rem The launcher of Python must not download a version that is missing.
set "PYTHON_MANAGER_AUTOMATIC_INSTALL=false"
set "PYLAUNCHER_ALLOW_INSTALL="
set "here=%~dp0"
set "self=%~nx0"
set "serve="
if /i "%~1"=="--serve" (
    set "serve=yes"
    shift /1
)
set "target=%~1"
if "%target%"=="" set "target=%USERPROFILE%\offgrid"
set "wheels="
set "python="
for %%v in (3.14 3.13 3.12 3.11 3.10) do call :try py -%%v
call :try python
if not defined wheels (
    echo install.bat: no Python on this machine fits the packages on this stick, which are for:
    dir /b "%here%offgrid-installer"
    echo Install that version of Python, or export from a machine like this one.
    goto :failed
)
if not exist "%target%\Scripts\python.exe" (
    %python% -m venv --without-pip "%target%"
    if errorlevel 1 (
        echo install.bat: Python cannot make a virtual environment in "%target%".
        goto :failed
    )
)
for %%w in ("%wheels%\pip-*.whl") do set "pip=%%~fw"
set "PIP_CONFIG_FILE=nul"
"%target%\Scripts\python.exe" "%pip%\pip" install --isolated --quiet --disable-pip-version-check --no-index --find-links "%wheels%" "offgrid-llm==@VERSION@"
if errorlevel 1 (
    echo install.bat: the packages cannot be installed into "%target%", see above.
    echo If it belongs to another version of Python, delete it or name another folder.
    goto :failed
)
"%target%\Scripts\python.exe" -I -m offgrid.engine.worker.self_test
if not "%errorlevel%"=="0" (
    echo install.bat: OffGrid LLM is installed, but it cannot compute on this machine, see above.
    echo The packages on this stick were built for a newer processor, or the
    echo "Microsoft Visual C++ Redistributable" is missing on this machine.
    goto :failed
)
if exist "%here%offgrid-models\" (
    "%target%\Scripts\offgrid.exe" import "%here%offgrid-models"
    if errorlevel 1 (
        echo install.bat: OffGrid LLM is installed, but not all models were imported, see above.
        goto :failed
    )
)
if defined serve (
    "%target%\Scripts\offgrid.exe" serve
    exit /b
)
echo OffGrid LLM is installed. Start it with:
echo     "%target%\Scripts\offgrid.exe" serve
call :wait
exit /b 0

:failed
call :wait
exit /b 1

:wait
rem After a double click, the window would close before anybody has read it.
echo "%cmdcmdline:"=%" | find /i "%self%" >nul && pause
exit /b 0

:try
if defined wheels exit /b 0
set "tag="
for /f "delims=" %%t in ('%* -c "import sys, sysconfig; print(sysconfig.get_platform() + '-cp' + str(sys.version_info[0]) + str(sys.version_info[1]))" 2^>nul') do set "tag=%%t"
if not defined tag exit /b 0
if not exist "%here%offgrid-installer\%tag%\" exit /b 0
set "wheels=%here%offgrid-installer\%tag%"
set "python=%*"
exit /b 0
